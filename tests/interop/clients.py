"""Other people's Cognito clients at the embedded pool, and their tokens at the gateway."""

import base64
import hashlib
import hmac

import boto3
import botocore.exceptions
import pycognito
import requests

from gateway import DEMO, Gateway, expect, identity, tampered, toml
from harness import free_port, node

POOL_ID = "eu-west-1_Interop01"
CLIENT_ID = "1interop2portcullis3client"
PASSWORD, NEW_PASSWORD = "Engine-1843", "Engine-1852"
EMAIL = "ada@example.com"


class Embedded:
    """A gateway with the embedded pool, and where an SDK finds that pool."""

    def __init__(self, story):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.issuer = f"{self.url}/{POOL_ID}"
        self.jwks_uri = f"{self.issuer}/.well-known/jwks.json"
        user, password = DEMO
        self.gateway = Gateway(story, toml(id=POOL_ID, client_id=CLIENT_ID) + f"""
[pool.main.embedded]
address = "127.0.0.1:{port}"
users = [{{ username = "{user}", password = "{password}", email = "demo@example.com", groups = ["admin"] }}]
""")
        self.cognito = boto3.client(
            "cognito-idp", endpoint_url=self.url, region_name="eu-west-1",
            aws_access_key_id="any", aws_secret_access_key="any",
        )

    def sign_in(self, username, password, client=CLIENT_ID, **parameters):
        """USER_PASSWORD_AUTH."""
        return self.cognito.initiate_auth(
            ClientId=client, AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": username, "PASSWORD": password, **parameters},
        )


def refused(name, call, *arguments, **members):
    """Asserts that a call fails with this exception, as the SDK names it, and status 400."""
    try:
        answer = call(*arguments, **members)
    except botocore.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == name, error
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error
        return error
    raise AssertionError(f"not refused: {answer}")


def boto3_sdk(story):
    """boto3 at the embedded pool: what an application does"""
    pool = Embedded(story)
    cognito, gateway = pool.cognito, pool.gateway
    ada = {"ClientId": CLIENT_ID, "Username": "ada"}

    with story.step("SignUp; again: UsernameExistsException; a weak password: InvalidPasswordException"):
        answer = cognito.sign_up(**ada, Password=PASSWORD, UserAttributes=[{"Name": "email", "Value": EMAIL}])
        assert answer["UserConfirmed"] is False, answer
        assert answer["CodeDeliveryDetails"]["DeliveryMedium"] == "EMAIL", answer
        assert "ada@" not in answer["CodeDeliveryDetails"]["Destination"], answer
        refused("UsernameExistsException", cognito.sign_up, **ada, Password=PASSWORD)
        refused("InvalidPasswordException", cognito.sign_up, ClientId=CLIENT_ID, Username="bob", Password="engines")
    with story.step("InitiateAuth before the confirmation: UserNotConfirmedException"):
        refused("UserNotConfirmedException", pool.sign_in, "ada", PASSWORD)
    with story.step("ResendConfirmationCode, ConfirmSignUp with a wrong code, then with the code of the outbox"):
        cognito.resend_confirmation_code(**ada)
        code = gateway.code_for("ada")
        wrong = "000000" if code != "000000" else "111111"
        refused("CodeMismatchException", cognito.confirm_sign_up, **ada, ConfirmationCode=wrong)
        cognito.confirm_sign_up(**ada, ConfirmationCode=code)
    with story.step("InitiateAuth: a wrong password and an unknown user are refused alike"):
        wrong = refused("NotAuthorizedException", pool.sign_in, "ada", "Wrong-1843")
        unknown = refused("NotAuthorizedException", pool.sign_in, "nobody", PASSWORD)
        assert wrong.response["Error"] == unknown.response["Error"], (wrong, unknown)
    with story.step("InitiateAuth with USER_PASSWORD_AUTH"):
        tokens = pool.sign_in("ada", PASSWORD)["AuthenticationResult"]
        assert tokens["TokenType"] == "Bearer" and tokens["ExpiresIn"] == 3600, tokens.keys()
    with story.step("GetUser"):
        user = cognito.get_user(AccessToken=tokens["AccessToken"])
        attributes = {attribute["Name"]: attribute["Value"] for attribute in user["UserAttributes"]}
        assert user["Username"] == "ada", user
        assert attributes["email"] == EMAIL and attributes["email_verified"] == "true", attributes
    with story.step("the gateway takes the token, and tells the upstream who is calling"):
        seen = identity(gateway.get("/hello", token=tokens["AccessToken"]))
        assert seen["x-auth-subject"] == attributes["sub"] and seen["x-auth-username"] == "ada", seen
        expect(gateway.get("/hello", token=tampered(tokens["AccessToken"])), 401, "token_invalid")
    with story.step("REFRESH_TOKEN_AUTH, GetTokensFromRefreshToken"):
        again = cognito.initiate_auth(
            ClientId=CLIENT_ID, AuthFlow="REFRESH_TOKEN_AUTH", AuthParameters={"REFRESH_TOKEN": tokens["RefreshToken"]}
        )["AuthenticationResult"]
        expect(gateway.get("/hello", token=again["AccessToken"]), 200)
        again = cognito.get_tokens_from_refresh_token(ClientId=CLIENT_ID, RefreshToken=tokens["RefreshToken"])
        expect(gateway.get("/hello", token=again["AuthenticationResult"]["AccessToken"]), 200)
    with story.step("ChangePassword: wrong, then right"):
        change = {"AccessToken": tokens["AccessToken"], "ProposedPassword": NEW_PASSWORD}
        refused("NotAuthorizedException", cognito.change_password, PreviousPassword="Wrong-1843", **change)
        cognito.change_password(PreviousPassword=PASSWORD, **change)
        refused("NotAuthorizedException", pool.sign_in, "ada", PASSWORD)
        pool.sign_in("ada", NEW_PASSWORD)
    with story.step("ForgotPassword, ConfirmForgotPassword with the code of the outbox"):
        cognito.forgot_password(**ada)
        code = gateway.code_for("ada")
        wrong = "000000" if code != "000000" else "111111"
        refused("CodeMismatchException", cognito.confirm_forgot_password, **ada, ConfirmationCode=wrong, Password=PASSWORD)
        cognito.confirm_forgot_password(**ada, ConfirmationCode=code, Password=PASSWORD)
        tokens = pool.sign_in("ada", PASSWORD)["AuthenticationResult"]
    with story.step("RevokeToken ends that refresh token and GetUser with its access token"):
        cognito.revoke_token(ClientId=CLIENT_ID, Token=tokens["RefreshToken"])
        refused("NotAuthorizedException", cognito.get_tokens_from_refresh_token, ClientId=CLIENT_ID,
                RefreshToken=tokens["RefreshToken"])
        refused("NotAuthorizedException", cognito.get_user, AccessToken=tokens["AccessToken"])
    with story.step("GlobalSignOut ends all refresh tokens of the user"):
        one, two = (pool.sign_in("ada", PASSWORD)["AuthenticationResult"] for _ in range(2))
        cognito.global_sign_out(AccessToken=one["AccessToken"])
        for tokens in (one, two):
            refused("NotAuthorizedException", cognito.get_tokens_from_refresh_token, ClientId=CLIENT_ID,
                    RefreshToken=tokens["RefreshToken"])
        refused("NotAuthorizedException", cognito.get_user, AccessToken=two["AccessToken"])
    with story.step("DeleteUser"):
        cognito.delete_user(AccessToken=pool.sign_in("ada", PASSWORD)["AuthenticationResult"]["AccessToken"])
        refused("NotAuthorizedException", pool.sign_in, "ada", PASSWORD)


def boto3_admin(story):
    """boto3 at the embedded pool: what an administrator does"""
    pool = Embedded(story)
    cognito, gateway = pool.cognito, pool.gateway
    bob = {"UserPoolId": POOL_ID, "Username": "bob"}

    with story.step("DescribeUserPool, ListUserPools, DescribeUserPoolClient"):
        assert cognito.describe_user_pool(UserPoolId=POOL_ID)["UserPool"]["Id"] == POOL_ID
        listed = cognito.list_user_pools(MaxResults=10)["UserPools"]
        assert POOL_ID in [entry["Id"] for entry in listed], listed
        client = cognito.describe_user_pool_client(UserPoolId=POOL_ID, ClientId=CLIENT_ID)["UserPoolClient"]
        assert "ALLOW_USER_SRP_AUTH" in client["ExplicitAuthFlows"], client
    with story.step("AdminCreateUser with a temporary password, CreateGroup, AdminAddUserToGroup"):
        created = cognito.admin_create_user(
            **bob, TemporaryPassword=PASSWORD, MessageAction="SUPPRESS",
            UserAttributes=[{"Name": "email", "Value": "bob@example.com"}, {"Name": "email_verified", "Value": "true"}],
        )["User"]
        assert created["UserStatus"] == "FORCE_CHANGE_PASSWORD" and created["Enabled"], created
        cognito.create_group(UserPoolId=POOL_ID, GroupName="editors")
        cognito.admin_add_user_to_group(**bob, GroupName="editors")
        cognito.admin_add_user_to_group(**bob, GroupName="admin")
        groups = {group["GroupName"] for group in cognito.admin_list_groups_for_user(**bob)["Groups"]}
        assert groups == {"editors", "admin"}, groups
        members = cognito.list_users_in_group(UserPoolId=POOL_ID, GroupName="editors")["Users"]
        assert [member["Username"] for member in members] == ["bob"], members
    with story.step("NEW_PASSWORD_REQUIRED at the first sign-in, answered through RespondToAuthChallenge"):
        challenge = pool.sign_in("bob", PASSWORD)
        assert challenge["ChallengeName"] == "NEW_PASSWORD_REQUIRED", challenge
        answer = {
            "ClientId": CLIENT_ID, "ChallengeName": "NEW_PASSWORD_REQUIRED", "Session": challenge["Session"],
            "ChallengeResponses": {"USERNAME": "bob", "NEW_PASSWORD": NEW_PASSWORD},
        }
        tokens = cognito.respond_to_auth_challenge(**answer)["AuthenticationResult"]
        refused("NotAuthorizedException", cognito.respond_to_auth_challenge, **answer)
    with story.step("the groups are in the token: the gateway's group route opens"):
        seen = identity(gateway.get("/admin/hello", token=tokens["AccessToken"]))
        assert set(seen["x-auth-groups"].split(",")) == {"editors", "admin"}, seen
    with story.step("AdminRemoveUserFromGroup: the next token lacks the group"):
        cognito.admin_remove_user_from_group(**bob, GroupName="admin")
        tokens = pool.sign_in("bob", NEW_PASSWORD)["AuthenticationResult"]
        expect(gateway.get("/admin/hello", token=tokens["AccessToken"]), 403, "access_denied")
    with story.step("AdminUpdateUserAttributes, AdminGetUser, ListUsers with a filter"):
        cognito.admin_update_user_attributes(**bob, UserAttributes=[{"Name": "name", "Value": "Bob Ößterreich"}])
        user = cognito.admin_get_user(**bob)
        assert user["UserStatus"] == "CONFIRMED", user
        assert {"Name": "name", "Value": "Bob Ößterreich"} in user["UserAttributes"], user
        found = cognito.list_users(UserPoolId=POOL_ID, Filter='email = "bob@example.com"')["Users"]
        assert [entry["Username"] for entry in found] == ["bob"], found
    with story.step("AdminSetUserPassword, AdminResetUserPassword"):
        cognito.admin_set_user_password(**bob, Password=PASSWORD, Permanent=True)
        pool.sign_in("bob", PASSWORD)
        cognito.admin_reset_user_password(**bob)
        refused("PasswordResetRequiredException", pool.sign_in, "bob", PASSWORD)
        cognito.confirm_forgot_password(
            ClientId=CLIENT_ID, Username="bob", ConfirmationCode=gateway.code_for("bob"), Password=NEW_PASSWORD
        )
        tokens = pool.sign_in("bob", NEW_PASSWORD)["AuthenticationResult"]
    with story.step("AdminUserGlobalSignOut, AdminDisableUser, AdminEnableUser"):
        cognito.admin_user_global_sign_out(**bob)
        refused("NotAuthorizedException", cognito.get_user, AccessToken=tokens["AccessToken"])
        cognito.admin_disable_user(**bob)
        refused("NotAuthorizedException", pool.sign_in, "bob", NEW_PASSWORD)
        cognito.admin_enable_user(**bob)
        pool.sign_in("bob", NEW_PASSWORD)
    with story.step("CreateUserPoolClient with a secret: SECRET_HASH is demanded and checked"):
        client = cognito.create_user_pool_client(
            UserPoolId=POOL_ID, ClientName="confidential", GenerateSecret=True,
            ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        )["UserPoolClient"]
        digest = hmac.digest(client["ClientSecret"].encode(), f"bob{client['ClientId']}".encode(), hashlib.sha256)
        refused("NotAuthorizedException", pool.sign_in, "bob", NEW_PASSWORD, client=client["ClientId"])
        refused("NotAuthorizedException", pool.sign_in, "bob", NEW_PASSWORD, client=client["ClientId"],
                SECRET_HASH=base64.b64encode(bytes(32)).decode())
        other = pool.sign_in(
            "bob", NEW_PASSWORD, client=client["ClientId"], SECRET_HASH=base64.b64encode(digest).decode()
        )["AuthenticationResult"]
    with story.step("the gateway refuses the tokens of an app client that it was not told of"):
        expect(gateway.get("/hello", token=other["AccessToken"]), 401, "token_invalid")
    with story.step("AdminDeleteUser; an unknown user: UserNotFoundException"):
        cognito.admin_delete_user(**bob)
        refused("UserNotFoundException", cognito.admin_get_user, **bob)
    with story.step("an unsigned admin call is refused"):
        answer = requests.post(
            pool.url, data='{"UserPoolId": "%s", "Username": "demo"}' % POOL_ID, timeout=10,
            headers={"Content-Type": "application/x-amz-json-1.1",
                     "X-Amz-Target": "AWSCognitoIdentityProviderService.AdminGetUser"},
        )
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["__type"] == "MissingAuthenticationTokenException", answer.text


def pycognito_srp(story):
    """pycognito at the embedded pool: SRP by another implementation, tokens verified by PyJWT"""
    pool = Embedded(story)

    def user(name):
        return pycognito.Cognito(
            POOL_ID, CLIENT_ID, username=name, access_key="any", secret_key="any",
            boto3_client_kwargs={"endpoint_url": pool.url},
        )

    with story.step("register, confirm_sign_up"):
        ada = user("ada")
        ada.set_base_attributes(email=EMAIL)
        ada.register("ada", PASSWORD)
        ada.confirm_sign_up(pool.gateway.code_for("ada"), username="ada")
    with story.step("authenticate by SRP: wrong password and unknown user are refused alike"):
        wrong = refused("NotAuthorizedException", user("ada").authenticate, "Wrong-1843")
        unknown = refused("NotAuthorizedException", user("nobody").authenticate, PASSWORD)
        assert wrong.response["Error"] == unknown.response["Error"], (wrong, unknown)
    with story.step("authenticate by SRP, many times: padding depends on the random values"):
        for _ in range(20):
            ada.authenticate(PASSWORD)
    with story.step("verify_tokens with the pool's key set and issuer"):
        ada.verify_tokens()
        assert ada.access_claims["username"] == "ada" and ada.id_claims["email"] == EMAIL
    with story.step("get_user, renew_access_token"):
        assert ada.get_user().email == EMAIL
        ada.renew_access_token()
        ada.verify_tokens()
        expect(pool.gateway.get("/hello", token=ada.access_token), 200)
    with story.step("change_password, then the forgotten one"):
        ada.change_password(PASSWORD, NEW_PASSWORD)
        ada.authenticate(NEW_PASSWORD)
        ada.initiate_forgot_password()
        ada.confirm_forgot_password(pool.gateway.code_for("ada"), PASSWORD)
        ada.authenticate(PASSWORD)
    with story.step("a user made by an administrator: new_password_challenge within SRP"):
        pool.cognito.admin_create_user(
            UserPoolId=POOL_ID, Username="eve", TemporaryPassword=PASSWORD, MessageAction="SUPPRESS"
        )
        eve = user("eve")
        try:
            eve.authenticate(PASSWORD)
            raise AssertionError("no challenge")
        except pycognito.exceptions.ForceChangePasswordException:
            pass
        eve.new_password_challenge(PASSWORD, NEW_PASSWORD)
        eve.authenticate(NEW_PASSWORD)
    with story.step("logout ends the refresh token"):
        kept = ada.refresh_token
        ada.logout()
        ada.refresh_token = kept
        refused("NotAuthorizedException", ada.renew_access_token)


def identity_js(story):
    """amazon-cognito-identity-js at the embedded pool: SRP the way that browsers do it"""
    pool = Embedded(story)
    outbox = f"http://127.0.0.1:{pool.gateway.admin_port}/outbox"
    node(story, "identity.js", pool.url, POOL_ID, CLIENT_ID, outbox, f"http://127.0.0.1:{pool.gateway.port}")


def jwt_verify(story):
    """aws-jwt-verify judges the embedded pool's tokens"""
    pool = Embedded(story)
    user, password = DEMO
    tokens = pool.sign_in(user, password)["AuthenticationResult"]
    node(story, "verify.js", pool.issuer, pool.jwks_uri, CLIENT_ID, tokens["AccessToken"], tokens["IdToken"],
         tampered(tokens["AccessToken"]))
