from tests.clients.command import clients_app

clients_app()
