"""A reference desk: answers questions about Python from its own manual, and audits source trees.

The example application of Offramp. `app.py` declares it; the rest is plain Python that needs no runtime.
"""
