"""A stand-in for Google Cloud over HTTP: it reads requests as Google's own messages, and refuses what Google would.

All of its services are at one address, which NLP_PIPELINE_VERTEX_ENDPOINT leads to; so is the server that gives tokens.
What Google was seen or is documented to do stands beside it in Google's own words.
"""
