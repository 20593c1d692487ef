"""The native API, the surface that is always served: events and webhooks link to it.

Owns its routes, bodies, documents and encoding of events. Must not know another surface.
"""
