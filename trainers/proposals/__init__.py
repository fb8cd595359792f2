"""Offline mixing: proxy runs under many fixed mixes, a law fitted to what they came to, and the mix it calls best."""
