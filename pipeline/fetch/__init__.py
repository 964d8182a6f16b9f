"""`[fetch]` steps: the one place where the network is reached, and everything that passes is counted.

The step's container has no network. A proxy on the host listens on a unix socket that is mounted into the
container; a bridge in the container leads 127.0.0.1 to it. The output tree is pinned by the lock, the record
of which hosts were reached is kept in the store.
"""
