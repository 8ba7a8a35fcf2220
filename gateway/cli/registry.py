import typer
organisations = typer.Typer(); members = typer.Typer(); keys = typer.Typer(); issuers = typer.Typer()
