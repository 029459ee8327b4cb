"""groundrec turns a language model into a recommender whose every answer is a real catalogue item."""

__version__ = "0.1.0"
