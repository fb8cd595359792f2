"""Fixed mixes from proxy runs: train under many mixes, fit a law to the losses, and propose the mix it calls best."""
