"""The control API: what ``pln`` administers, over HTTP and JSON on a unix socket."""
