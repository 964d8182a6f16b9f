"""What a machine boots, and the registers that it gives: PE files, kernels, unified kernel images."""
