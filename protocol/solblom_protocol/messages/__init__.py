"""What travels: signed orders, replies and invitations, how each is framed, sealed and carried."""
