"""What coordinator and hospital must agree on, byte for byte. No torch, no Flower, no Opacus."""

__version__ = "0.1.0"
