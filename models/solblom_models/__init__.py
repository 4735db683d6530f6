"""The science: tasks, nets, metrics, the accountant and the model artefact. No Flower, no Opacus, no network."""

__version__ = "0.1.0"
