"""The coordinator as a service: one public port, a SuperLink behind it, and who is connected."""
