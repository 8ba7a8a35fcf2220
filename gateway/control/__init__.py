"""The control process: the registry, the life of the policy, the workers, and the API to them."""
