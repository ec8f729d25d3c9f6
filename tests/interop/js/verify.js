// aws-jwt-verify judges tokens of the embedded pool. Its CognitoJwtVerifier knows Amazon's issuers only,
// so the generic verifier is used with the function that does the checks particular to Cognito.
// Prints "ok TEXT" for each step; the first failed assertion ends it with a non-zero exit code.
'use strict';

const assert = require('node:assert/strict');
const { JwtVerifier } = require('aws-jwt-verify');
const { validateCognitoJwtFields } = require('aws-jwt-verify/cognito-verifier');
const {
  CognitoJwtInvalidClientIdError, CognitoJwtInvalidGroupError, CognitoJwtInvalidTokenUseError, JwtExpiredError,
  JwtInvalidIssuerError, JwtInvalidSignatureError, KidNotFoundInJwksError,
} = require('aws-jwt-verify/error');

const [issuer, jwksUri, clientId, accessToken, idToken, tampered] = process.argv.slice(2);

async function main() {
  const jwks = await (await fetch(jwksUri)).json();
  const verify = verifier(issuer, jwks);

  assert.equal(judge(verify, accessToken, { tokenUse: 'access', clientId }).username, 'demo');
  assert.equal(judge(verify, idToken, { tokenUse: 'id', clientId })['cognito:username'], 'demo');
  ok('accepts the access token and the ID token');

  judge(verify, accessToken, { tokenUse: 'access', clientId, groups: ['admin'] });
  refused(CognitoJwtInvalidGroupError, () => judge(verify, accessToken, { tokenUse: 'access', clientId, groups: ['none'] }));
  verify(accessToken, { scope: 'aws.cognito.signin.user.admin' });
  ok('finds groups and scope in them');

  refused(CognitoJwtInvalidTokenUseError, () => judge(verify, accessToken, { tokenUse: 'id', clientId }));
  refused(CognitoJwtInvalidTokenUseError, () => judge(verify, idToken, { tokenUse: 'access', clientId }));
  refused(CognitoJwtInvalidClientIdError, () => judge(verify, accessToken, { tokenUse: 'access', clientId: 'other' }));
  refused(CognitoJwtInvalidClientIdError, () => judge(verify, idToken, { tokenUse: 'id', clientId: 'other' }));
  ok('refuses the other token use, another app client');

  refused(JwtInvalidSignatureError, () => verify(tampered));
  const [header, , signature] = accessToken.split('.');
  refused(JwtInvalidSignatureError, () => verify([header, idToken.split('.')[1], signature].join('.')));
  ok('refuses a tampered token');

  refused(JwtInvalidIssuerError, () => verifier(`${issuer}x`, jwks)(accessToken));
  ok('refuses a wrong issuer');

  const kidOf = (token) => JSON.parse(Buffer.from(token.split('.')[0], 'base64url')).kid;
  assert.notEqual(kidOf(accessToken), kidOf(idToken));
  const without = { keys: jwks.keys.filter(({ kid }) => kid !== kidOf(accessToken)) };
  refused(KidNotFoundInJwksError, () => verifier(issuer, without)(accessToken));
  ok('finds a key of its own for each of the two tokens');

  const now = Date.now;
  try {
    Date.now = () => now() + 25 * 3600 * 1000;
    refused(JwtExpiredError, () => verify(accessToken));
    refused(JwtExpiredError, () => verify(idToken));
  } finally {
    Date.now = now;
  }
  ok('refuses an expired token');
}

function verifier(expectedIssuer, jwks) {
  // Not for use: an https address that is never asked, since the keys are given. The fetcher refuses http.
  const generic = JwtVerifier.create({ issuer: expectedIssuer, jwksUri: 'https://127.0.0.1/jwks.json', audience: null });
  generic.cacheJwks(jwks);
  return (token, options) => generic.verifySync(token, options);
}

function judge(verify, token, options) {
  const payload = verify(token);
  validateCognitoJwtFields(payload, options);
  return payload;
}

function refused(kind, action) {
  assert.throws(action, (error) => {
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}, not ${kind.name}`);
    return true;
  });
}

function ok(text) {
  console.log(`ok ${text}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
