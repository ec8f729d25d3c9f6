"""Which suites there are, in the order in which they run."""

import assertion
import clients
import forward_auth
import grpc_calls
import http2
import large
import listeners
import pools
import proxies
import readme
import servers
import sockets
import tls

ALL = {
    "moto-password": pools.moto_password,
    "moto-srp": pools.moto_srp,
    "moto-secret": pools.moto_secret,
    "cognito-local": pools.cognito_local,
    "boto3": clients.boto3_sdk,
    "boto3-admin": clients.boto3_admin,
    "pycognito": clients.pycognito_srp,
    "amazon-cognito-identity-js": clients.identity_js,
    "aws-jwt-verify": clients.jwt_verify,
    "assertion": assertion.pyjwt,
    "tls": tls.handshakes,
    "forward-auth-nginx": forward_auth.nginx,
    "forward-auth-caddy": forward_auth.caddy,
    "grpc": grpc_calls.client_and_server,
    "nginx-before": proxies.nginx_before,
    "haproxy-before": proxies.haproxy_before,
    "nginx-behind": proxies.nginx_behind,
    "haproxy-behind": proxies.haproxy_behind,
    "http2": http2.curl_and_h2load,
    "proxy-protocol-haproxy": listeners.haproxy,
    "proxy-protocol-nginx": listeners.nginx,
    "sockets": listeners.sockets,
    "websocket": sockets.clients_and_servers,
    "large-bodies": large.bodies,
    "readme": readme.curl_lines,
    "killed-and-back": servers.killed_and_back,
}
