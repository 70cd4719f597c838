"""`python -m distill.catalogue` regenerates the catalogue."""

from distill.catalogue.builder import main

if __name__ == "__main__":
    main()
