"""What stands in an artefact: one module for each kind of file. `solblom_models.artefact` puts them together."""
