// amazon-cognito-identity-js at the embedded pool: sign-up, SRP, refresh, passwords, sign-out.
// Prints "ok TEXT" for each step; the first failed assertion ends it with a non-zero exit code.
'use strict';

const assert = require('node:assert/strict');
const {
  AuthenticationDetails, CognitoUser, CognitoUserAttribute, CognitoUserPool,
} = require('amazon-cognito-identity-js');

const [endpoint, UserPoolId, ClientId, outbox, gateway] = process.argv.slice(2);
const pool = new CognitoUserPool({ UserPoolId, ClientId, endpoint });
const PASSWORD = 'Engine-1843';
const NEW_PASSWORD = 'Engine-1852';

async function main() {
  const ada = user('ada');

  const email = new CognitoUserAttribute({ Name: 'email', Value: 'ada@example.com' });
  const signedUp = await call((done) => pool.signUp('ada', PASSWORD, [email], [], done));
  assert.equal(signedUp.userConfirmed, false);
  assert.equal(signedUp.codeDeliveryDetails.DeliveryMedium, 'EMAIL');
  ok('signUp');

  await refused('UserNotConfirmedException', signIn(ada, PASSWORD));
  await call((done) => ada.resendConfirmationCode(done));
  const code = await codeFor('ada');
  const wrong = code === '000000' ? '111111' : '000000';
  await refused('CodeMismatchException', call((done) => ada.confirmRegistration(wrong, false, done)));
  await call((done) => ada.confirmRegistration(code, false, done));
  ok('resendConfirmationCode, confirmRegistration with a wrong code, then with the right one');

  await refused('NotAuthorizedException', signIn(user('ada'), 'Wrong-1843'));
  await refused('NotAuthorizedException', signIn(user('nobody'), PASSWORD));
  ok('authenticateUser by SRP: a wrong password and an unknown user are refused');

  let session;
  for (let round = 0; round < 10; round += 1) {
    session = await signIn(ada, PASSWORD);
    assert.ok(session.isValid());
  }
  assert.equal(session.getIdToken().payload.email, 'ada@example.com');
  assert.equal(session.getAccessToken().payload.username, 'ada');
  ok('authenticateUser by SRP, many times');

  const hello = await fetch(`${gateway}/hello`, {
    headers: { authorization: `Bearer ${session.getAccessToken().getJwtToken()}` },
  });
  assert.equal(hello.status, 200);
  ok('the gateway takes the token');

  const attributes = await call((done) => ada.getUserAttributes(done));
  assert.ok(attributes.some(({ Name, Value }) => Name === 'email' && Value === 'ada@example.com'));
  ok('getUserAttributes');

  const refreshed = await call((done) => ada.refreshSession(session.getRefreshToken(), done));
  assert.notEqual(refreshed.getAccessToken().getJwtToken(), session.getAccessToken().getJwtToken());
  ok('refreshSession');

  await refused('NotAuthorizedException', call((done) => ada.changePassword('Wrong-1843', NEW_PASSWORD, done)));
  await call((done) => ada.changePassword(PASSWORD, NEW_PASSWORD, done));
  await signIn(ada, NEW_PASSWORD);
  ok('changePassword');

  await new Promise((onSuccess, onFailure) => {
    ada.forgotPassword({ onSuccess, onFailure, inputVerificationCode: onSuccess });
  });
  const reset = await codeFor('ada');
  await new Promise((onSuccess, onFailure) => {
    ada.confirmPassword(reset, PASSWORD, { onSuccess, onFailure });
  });
  session = await signIn(ada, PASSWORD);
  ok('forgotPassword, confirmPassword');

  const elsewhere = await signIn(user('ada'), PASSWORD);
  await new Promise((onSuccess, onFailure) => { ada.globalSignOut({ onSuccess, onFailure }); });
  const stale = user('ada');
  await refused('NotAuthorizedException', call((done) => stale.refreshSession(elsewhere.getRefreshToken(), done)));
  ok('globalSignOut ends the refresh tokens of other devices as well');

  await signIn(ada, PASSWORD);
  await call((done) => ada.deleteUser(done));
  await refused('NotAuthorizedException', signIn(user('ada'), PASSWORD));
  ok('deleteUser');
}

function user(Username) {
  return new CognitoUser({ Username, Pool: pool });
}

function signIn(cognitoUser, Password) {
  const details = new AuthenticationDetails({ Username: cognitoUser.getUsername(), Password });
  return new Promise((onSuccess, onFailure) => {
    cognitoUser.authenticateUser(details, {
      onSuccess,
      onFailure,
      newPasswordRequired: () => onFailure(new Error('NEW_PASSWORD_REQUIRED')),
    });
  });
}

// A callback in Node.js's order as a promise.
function call(start) {
  return new Promise((resolve, reject) => {
    start((error, result) => (error ? reject(error) : resolve(result)));
  });
}

async function refused(name, promise) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.name ?? error.code, name, error.message);
    return true;
  });
}

// The newest code that the pool "sent" to a user.
async function codeFor(username) {
  const found = find(await (await fetch(outbox)).json(), username);
  assert.ok(found, `no code for ${username}`);
  return found.code;
}

function find(value, username) {
  if (value === null || typeof value !== 'object') return undefined;
  if (value.username === username) return value;
  return Object.values(value).reduce((found, inner) => found ?? find(inner, username), undefined);
}

function ok(text) {
  console.log(`ok ${text}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
