"""The courier: carries sealed bytes between coordinator and vault, and can read none of them."""
