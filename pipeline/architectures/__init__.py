"""Networks rebuilt from their publications, a file each."""
