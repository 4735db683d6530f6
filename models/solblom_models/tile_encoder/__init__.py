"""The built-in tile encoder: colour and texture of H&E, with public constants; no patient had a part in it."""
