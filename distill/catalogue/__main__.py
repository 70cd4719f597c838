"""python -m distill.catalogue: generate the catalogue anew."""

from distill.catalogue.builder import main

if __name__ == "__main__":
    main()
