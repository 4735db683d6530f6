"""Made-up patients that obey a data contract: drawn from the contract and public files alone, never from a patient."""
