"""A model of one machine's muscles and of the network between machines."""
