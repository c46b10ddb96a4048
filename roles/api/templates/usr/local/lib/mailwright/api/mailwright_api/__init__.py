# Managed by mailwright: changes are overwritten.
"""The sending API: a web service that accepts, and a dispatcher that sends and follows what becomes of it."""
