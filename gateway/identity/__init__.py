"""From a credential to a ``Principal``: API keys and JWT access tokens, their issuers and keys.

A credential that is malformed costs neither a lookup nor a fetch; every refusal is a constant
text, so nothing that a caller sent comes back to him or into a log.
"""
