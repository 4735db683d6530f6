"""Couriers: implementations of Flower's Grid. Each carries sealed bytes and reads none."""
