"""Object storage: what lies in a bucket becomes a folder of this machine, and back."""
