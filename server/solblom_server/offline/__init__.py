"""The offline bundle, made where there is internet, for hospitals that have none."""
