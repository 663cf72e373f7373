// A receiver of Herald's pushes to start from; docs/receiving.md says why each step is there.
//
//   npm install && SIGNING_SECRETS=whsec_… node receiver.js
//
// It takes pushes in JSON with the payload "envelope" at /hook, single events and batches, and validation records at
// /validate. SIGNING_SECRETS are one or more signing secrets, with spaces between. RECEIVER_HOST and RECEIVER_PORT say where
// it listens: 127.0.0.1 and 9000, behind a proxy that speaks TLS.
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const maxBody = 8 << 20; // a batch has up to 4 MiB of data, and its envelopes
const maxWaiting = 1000; // pushes; Herald has 64 under way at once, unless told otherwise. Bound their bytes too if yours are large.
const maxKnown = 100_000; // ids; enough for all that comes between a push and its last retry

const secrets = (process.env.SIGNING_SECRETS ?? "").split(/\s+/).filter(Boolean);
if (secrets.length === 0) {
  console.error("SIGNING_SECRETS: needed are one or more secrets (whsec_…), with spaces between");
  process.exit(1);
}
const webhooks = secrets.map((secret) => new Webhook(secret)); // one for each secret

// What waits and what is known live in memory here, so a crash loses what was answered and not yet worked on. A real
// receiver writes the push to its own durable store before it answers, with the id as a unique key, and works from there.
const waiting = [];
const known = new Set(); // in the order in which they came
let working = false;
let underWay = 0; // requests
let stopping = false;

// Refused is an answer other than 2xx.
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// bodyOf reads a body that says how long it is, as those of pushes do; Node takes no more than that.
async function bodyOf(request) {
  const length = request.headers["content-length"];
  if (length === undefined) throw new Refused(411, "the body needs a Content-Length");
  if (Number(length) > maxBody) throw new Refused(413, "the body is too large");
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

// verified returns what a body says that was signed with one of the secrets. The library compares in constant time and
// refuses timestamps more than five minutes away. It gets the body as it came: the same JSON, parsed and written again,
// is not what was signed. Whatever it throws, the request is not genuine.
function verified(body, headers) {
  let why;
  for (const webhook of webhooks) {
    try {
      return webhook.verify(body, headers);
    } catch (error) {
      why = error;
    }
  }
  console.error("refused:", why.message);
  throw new Refused(401, "the signature is wrong");
}

// accept queues a push, unless it is known: then it was taken before, and 2xx says so again. When there is no room it
// is not known afterwards, so that it can come again.
function accept(id, push) {
  if (known.has(id)) return;
  if (waiting.length >= maxWaiting) throw new Refused(503, "too much is waiting");
  remember(id);
  waiting.push(push);
}

// remember makes an id known, and forgets the oldest.
function remember(id) {
  known.add(id);
  if (known.size > maxKnown) known.delete(known.values().next().value);
}

// eventsOf are the new events of a push. A batch has an id of its own, and its records may have come in other company before.
function* eventsOf(push) {
  if (!push.records) {
    yield push;
    return;
  }
  for (const event of push.records) {
    if (known.has(event.id)) continue;
    remember(event.id);
    yield event;
  }
}

// work is for everything that takes time or can fail: Herald has its answer already, so what fails is yours to try again.
async function work() {
  if (working) return;
  working = true;
  while (waiting.length > 0) {
    try {
      for (const event of eventsOf(waiting.shift())) await handle(event);
    } catch (error) {
      console.error("failed:", error);
    }
  }
  working = false;
}

// handle is where your own code goes. It lets types pass that it does not know.
async function handle(event) {
  console.log("event", event.id, event.type);
}

// confirm sends a validation record, which has the signature in it, back to its confirmationURL. The signature of the request
// has shown that whoever made the subscription knows our secret; without that anyone could make us call any URL.
async function confirm(record) {
  try {
    const response = await fetch(record.confirmationURL, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(record),
      redirect: "error",
      signal: AbortSignal.timeout(5000),
    });
    if (response.status !== 204) throw new Error(`it answered ${response.status}`);
  } catch (error) {
    console.error("not confirmed:", record.confirmationURL, error.message);
    throw new Refused(503, "the confirmation failed"); // so the record comes again
  }
  console.log("confirmed", record.confirmationURL);
}

// answer takes a push: verified, kept, answered. The work comes after. A validation is confirmed before it is answered.
async function answer(request, response) {
  underWay++;
  response.once("close", () => {
    underWay--;
    if (stopping && underWay === 0) server.closeAllConnections();
  });
  try {
    if (request.url !== "/hook" && request.url !== "/validate") throw new Refused(404, "there is nothing here");
    if (request.method !== "POST") throw new Refused(405, "only POST is taken");
    const push = verified(await bodyOf(request), request.headers);
    if (request.url === "/validate") await confirm(push);
    else accept(request.headers["webhook-id"], push);
    response.writeHead(204).end();
    work();
  } catch (error) {
    if (!(error instanceof Refused)) console.error("failed:", error);
    const headers = { Connection: "close" }; // what is left of the body is not read
    if (error.status === 503) headers["Retry-After"] = "1";
    if (error.status === 405) headers.Allow = "POST";
    response.writeHead(error.status ?? 500, headers).end(error.status ? error.message : "failed");
  }
}

const server = createServer({ requestTimeout: 10_000 }, answer);
server.listen(Number(process.env.RECEIVER_PORT ?? 9000), process.env.RECEIVER_HOST ?? "127.0.0.1", () => {
  const { address, port } = server.address();
  console.log("listening", `${address}:${port}`);
});

// No new push is taken, those under way are answered, and what was answered is worked off; then nothing is left to run for.
function stop() {
  stopping = true;
  server.close();
  // Herald keeps connections open for the next push, and some on which nothing has come yet; Node would wait for those.
  if (underWay === 0) server.closeAllConnections();
  setTimeout(() => server.closeAllConnections(), 10_000).unref();
}
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, stop);
