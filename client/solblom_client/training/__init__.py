"""One clipped contribution per patient, and noise from the node's own key stream."""
