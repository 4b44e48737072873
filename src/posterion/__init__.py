"""Posterion: cryo-EM maps from particle images by maximum likelihood."""
