from tests.fuzz.command import fuzz_app

fuzz_app()
