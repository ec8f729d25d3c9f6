"""The gateway with other people's Cognito emulators as its pool."""

import json
import sys

import boto3

from gateway import Gateway, expect, identity, tampered, toml
from harness import WORK, free_port, listens

ADA = "ada"
PASSWORD, NEW_PASSWORD = "Engine-1843", "Engine-1852"
EMAIL = "ada@example.com"


def moto_password(story):
    """gateway, flow = "password", in front of moto"""
    moto(story, "password")


def moto_srp(story):
    """gateway, flow = "srp", in front of moto"""
    moto(story, "srp")


def moto_secret(story):
    """gateway, flow = "password", in front of moto, as an app client that has a secret"""
    moto(story, "password", has_secret=True)


def moto(story, flow, has_secret=False):
    """moto's tokens name Amazon's issuer wherever it runs, so only the addresses are overridden."""
    port = free_port()
    server = WORK / "venv" / "bin" / "moto_server"
    story.start("moto", [sys.executable, server, "-H", "127.0.0.1", "-p", port], ready=listens(port))
    url = f"http://127.0.0.1:{port}"
    pool, client, secret = create_pool(url, "us-east-1", has_secret)
    gateway = Gateway(story, toml(
        id=pool, client_id=client, **({"client_secret": secret} if has_secret else {}), flow=flow, endpoint=url,
        issuer=f"https://cognito-idp.us-east-1.amazonaws.com/{pool}", jwks=f"{url}/{pool}/.well-known/jwks.json",
    ))

    register(story, gateway)
    with story.step("login before the confirmation is refused like a wrong password"):
        expect(gateway.post("/auth/login", username=ADA, password=PASSWORD), 401, "credentials_invalid")
    story.cannot("a wrong confirmation code", "moto takes any")
    story.cannot("confirm/resend", "moto has no ResendConfirmationCode")
    confirm(story, gateway, "123456")
    if flow == "password":
        wrong_password(story, gateway)
    else:
        story.cannot("a wrong password", "moto's SRP takes any PASSWORD_CLAIM_SIGNATURE")
    tokens = login(story, gateway, PASSWORD)
    protected_route(story, gateway, tokens, client)
    refreshed = refresh(story, gateway, tokens)
    forgot_and_reset(story, gateway, "123456")
    if flow == "password":
        with story.step("login with the old password is refused, with the new one it works"):
            expect(gateway.post("/auth/login", username=ADA, password=PASSWORD), 401, "credentials_invalid")
            expect(gateway.post("/auth/login", username=ADA, password=NEW_PASSWORD), 200)
    story.cannot("revocation of the refresh token at the pool", "moto has no RevokeToken")
    logout(story, gateway, refreshed["access_token"], tokens["refresh_token"])


def cognito_local(story):
    """gateway, flow = "password", in front of cognito-local"""
    port = free_port()
    program = WORK / "js" / "node_modules" / "cognito-local" / "lib" / "bin" / "start.js"
    code = "271828"
    # Its default is that a user name is an e-mail address.
    settings = story.folder / ".cognito" / "config.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"UserPoolDefaults": {"UsernameAttributes": []}}))
    story.start(
        "cognito-local", ["node", program],
        environment={"HOST": "127.0.0.1", "PORT": str(port), "CODE": code}, ready=listens(port),
    )
    url = f"http://127.0.0.1:{port}"
    pool, client, _ = create_pool(url, "local")
    gateway = Gateway(story, toml(
        id=pool, client_id=client, flow="password", endpoint=url, issuer=f"{url}/{pool}",
        jwks=f"{url}/{pool}/.well-known/jwks.json",
    ))

    story.cannot('flow = "srp"', "cognito-local has no USER_SRP_AUTH")
    register(story, gateway)
    with story.step("login before the confirmation is refused like a wrong password"):
        expect(gateway.post("/auth/login", username=ADA, password=PASSWORD), 401, "credentials_invalid")
    story.cannot("confirm/resend", "cognito-local has no ResendConfirmationCode")
    with story.step("a wrong confirmation code is refused"):
        expect(gateway.post("/auth/confirm", username=ADA, code="000000"), 400, "code_mismatch")
    confirm(story, gateway, code)
    wrong_password(story, gateway)
    tokens = login(story, gateway, PASSWORD)
    protected_route(story, gateway, tokens, client)
    refreshed = refresh(story, gateway, tokens)
    forgot_and_reset(story, gateway, code)
    with story.step("login with the old password is refused, with the new one it works"):
        expect(gateway.post("/auth/login", username=ADA, password=PASSWORD), 401, "credentials_invalid")
        expect(gateway.post("/auth/login", username=ADA, password=NEW_PASSWORD), 200)
    logout(story, gateway, refreshed["access_token"], tokens["refresh_token"])
    with story.step("the refresh token is refused by the pool after logout"):
        expect(gateway.post("/auth/refresh", refresh_token=tokens["refresh_token"]), 401)


def create_pool(url, region, has_secret=False):
    """A pool and an app client, made the way that an administrator makes them, and the client's secret.

    moto puts those attributes into ID tokens that the client may read.
    """
    cognito = boto3.client(
        "cognito-idp", endpoint_url=url, region_name=region, aws_access_key_id="any", aws_secret_access_key="any"
    )
    pool = cognito.create_user_pool(PoolName="interop", AutoVerifiedAttributes=["email"])["UserPool"]["Id"]
    client = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="interop", ReadAttributes=["email"], GenerateSecret=has_secret,
        ExplicitAuthFlows=["ALLOW_USER_SRP_AUTH", "ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
    )["UserPoolClient"]
    return pool, client["ClientId"], client.get("ClientSecret")


def register(story, gateway):
    with story.step("register"):
        body = expect(gateway.post("/auth/register", username=ADA, password=PASSWORD, email=EMAIL), 201)
        assert body["username"] == ADA, body
        assert body["confirmed"] is False, body


def confirm(story, gateway, code):
    with story.step("confirm"):
        assert expect(gateway.post("/auth/confirm", username=ADA, code=code), 200) == {"confirmed": True}


def wrong_password(story, gateway):
    with story.step("a wrong password and an unknown user are refused alike"):
        wrong = expect(gateway.post("/auth/login", username=ADA, password="Wrong-1843"), 401, "credentials_invalid")
        unknown = expect(gateway.post("/auth/login", username="nobody", password=PASSWORD), 401, "credentials_invalid")
        assert {**wrong, "request_id": ""} == {**unknown, "request_id": ""}, (wrong, unknown)


def login(story, gateway, password):
    with story.step("login"):
        tokens = expect(gateway.post("/auth/login", username=ADA, password=password), 200)
        assert tokens["token_type"] == "Bearer", tokens.keys()
        assert tokens["expires_in"] > 0, tokens.keys()
        assert tokens["access_token"] and tokens["id_token"] and tokens["refresh_token"]
    return tokens


def protected_route(story, gateway, tokens, client):
    """Every kind of credential at a route that needs one."""
    with story.step("a protected route: 401 without a token, 200 with the access token"):
        expect(gateway.get("/hello"), 401, "token_missing")
        seen = identity(gateway.get("/hello", token=tokens["access_token"]))
        assert seen["x-auth-username"] == ADA, seen
        assert seen["x-auth-client"] == client, seen
        assert seen["x-auth-pool"] == "main", seen
        claims = expect(gateway.post("/auth/validate", token=tokens["access_token"]), 200)["claims"]
        assert seen["x-auth-subject"] == claims["sub"], (seen, claims)
    with story.step("the ID token opens only the route that asks for one"):
        expect(gateway.get("/hello", token=tokens["id_token"]), 401, "token_invalid")
        seen = identity(gateway.get("/id/hello", token=tokens["id_token"]))
        assert seen["x-auth-email"] == EMAIL, seen
        expect(gateway.get("/id/hello", token=tokens["access_token"]), 401, "token_invalid")
    with story.step("a tampered token is refused"):
        expect(gateway.get("/hello", token=tampered(tokens["access_token"])), 401, "token_invalid")
    with story.step("a route for a group that the user is not in"):
        expect(gateway.get("/admin/hello", token=tokens["access_token"]), 403, "access_denied")


def refresh(story, gateway, tokens):
    with story.step("refresh"):
        refreshed = expect(gateway.post("/auth/refresh", refresh_token=tokens["refresh_token"]), 200)
        expect(gateway.get("/hello", token=refreshed["access_token"]), 200)
    return refreshed


def forgot_and_reset(story, gateway, code):
    with story.step("password/forgot and password/reset"):
        expect(gateway.post("/auth/password/forgot", username=ADA), 202)
        expect(gateway.post("/auth/password/reset", username=ADA, code=code, password=NEW_PASSWORD), 204)


def logout(story, gateway, access_token, refresh_token):
    with story.step("logout: the access token is refused from then on"):
        expect(gateway.get("/hello", token=access_token), 200)
        expect(gateway.post("/auth/logout", token=access_token, refresh_token=refresh_token), 204)
        expect(gateway.get("/hello", token=access_token), 401, "token_revoked")
