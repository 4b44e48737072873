"""From micrographs to particles: reading micrographs, fitting their CTF, finding the particles in them."""
