"""`python -m extractor.bench`: see extractor.tools.bench."""

from extractor.tools.bench import app

if __name__ == "__main__":
    app()
