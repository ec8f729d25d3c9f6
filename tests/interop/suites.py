"""Which suites there are, in the order in which they run."""

import clients
import pools
import readme
import tls

ALL = {
    "moto-password": pools.moto_password,
    "moto-srp": pools.moto_srp,
    "cognito-local": pools.cognito_local,
    "boto3": clients.boto3_sdk,
    "boto3-admin": clients.boto3_admin,
    "pycognito": clients.pycognito_srp,
    "amazon-cognito-identity-js": clients.identity_js,
    "aws-jwt-verify": clients.jwt_verify,
    "tls": tls.handshakes,
    "readme": readme.curl_lines,
}
