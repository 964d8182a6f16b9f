"""AMD SEV-SNP: launch digest and ID block; SEV and SEV-ES fall out."""
