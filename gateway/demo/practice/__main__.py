"""``python -m gateway.demo.practice``."""

from gateway.demo.practice.server import main

main()
