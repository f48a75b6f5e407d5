// Clients of others against the emulator: Bentley's for tokens, iTwins and iModels, Microsoft's for blobs, a library for
// resource servers that checks tokens by the key set, and requests in the form that Bentley's command-line program sends
// for storage and synchronization.
//
// Usage: node foreign.mjs API_URL ISSUER_URL CLIENT_ID CLIENT_SECRET

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { BlockBlobClient } from "@azure/storage-blob";
import { IModelsClient, toArray } from "@itwin/imodels-client-management";
import { ITwinsAccessClient } from "@itwin/itwins-client";
import { ServiceAuthorizationClient } from "@itwin/service-authorization";
import { createRemoteJWKSet, jwtVerify } from "jose";

const [api, issuer, clientId, clientSecret] = process.argv.slice(2);

const authority = { authority: issuer, clientId, scope: "itwin-platform" };
const signIn = new ServiceAuthorizationClient({ ...authority, clientSecret });
const token = await signIn.getAccessToken();
assert.match(token, /^Bearer /);
await assert.rejects(new ServiceAuthorizationClient({ ...authority, clientSecret: "wrong" }).getAccessToken());

// As a server does that takes tokens of the platform.
const discovery = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const keys = createRemoteJWKSet(new URL(discovery.jwks_uri));
const expected = { issuer: discovery.issuer, audience: "bentley-api-management", algorithms: ["RS256"] };
const { payload } = await jwtVerify(token.slice("Bearer ".length), keys, expected);
assert.equal(payload.client_id, clientId);
assert.deepEqual(payload.scope, ["itwin-platform"]);
const [head, claims, signature] = token.slice("Bearer ".length).split(".");
const forged = Buffer.from(JSON.stringify({ ...payload, client_id: "other" })).toString("base64url");
await assert.rejects(jwtVerify(`${head}.${forged}.${signature}`, keys, expected), /signature/);

const itwins = new ITwinsAccessClient(`${api}/itwins`);
const created = await itwins.createiTwin(token, { displayName: "Foreign", class: "Thing", subClass: "Asset", number: `n-${Date.now()}` });
assert.equal(created.status, 201);
const itwin = created.data;
assert.equal((await itwins.getAsync(token, itwin.id, "representation")).data.displayName, "Foreign");
assert.ok((await itwins.queryAsync(token, undefined, { subClass: "Asset" })).data.some(({ id }) => id === itwin.id));
assert.equal((await itwins.createiTwin(token, { displayName: "X", class: "Thing", subClass: "Project" })).status, 422);
assert.equal((await itwins.getPrimaryAccountAsync(token)).data.subClass, "Account");
assert.equal((await itwins.queryFavoritesAsync(token, "Asset")).status, 200);
assert.equal((await itwins.queryRecentsAsync(token, "Asset")).status, 200);

const imodels = new IModelsClient({ api: { baseUrl: `${api}/imodels` } });
const authorization = async () => ({ scheme: "Bearer", token: token.slice("Bearer ".length) });
const extent = { southWest: { latitude: 46.1, longitude: 7.6 }, northEast: { latitude: 46.3, longitude: 7.8 } };
const imodel = await imodels.iModels.createEmpty({
  authorization,
  iModelProperties: { iTwinId: itwin.id, name: "One", description: "the first", extent },
});
assert.deepEqual(imodel.extent, extent);
await imodels.iModels.createEmpty({ authorization, iModelProperties: { iTwinId: itwin.id, name: "Two" } });
const listed = await toArray(imodels.iModels.getRepresentationList({ authorization, urlParams: { iTwinId: itwin.id, $top: 1 } }));
assert.deepEqual(listed.map(({ name }) => name), ["One", "Two"]);
for (const name of ["Three", "Four", "Five"]) {
  await imodels.iModels.createEmpty({ authorization, iModelProperties: { iTwinId: itwin.id, name } });
}
// Pages of two, from the end: the links keep the order.
const descending = { iTwinId: itwin.id, $top: 2, $orderBy: { property: "name", operator: "desc" } };
const ordered = await toArray(imodels.iModels.getMinimalList({ authorization, urlParams: descending }));
assert.deepEqual(ordered.map(({ displayName }) => displayName), ["Two", "Three", "One", "Four", "Five"]);
const missing = imodels.iModels.getSingle({ authorization, iModelId: "00000000-0000-4000-8000-000000000000" });
await assert.rejects(missing, ({ code }) => code === "iModelNotFound");

async function send(method, path, body, expected = 200, headers = {}) {
  const answer = await fetch(`${api}/${path}`, {
    method,
    headers: {
      Authorization: token,
      "Content-Type": "application/json",
      Accept: "application/vnd.bentley.itwin-platform.v1+json",
      ...headers,
    },
    body: body && JSON.stringify(body),
    redirect: "manual",
  });
  const text = await answer.text();
  assert.equal(answer.status, expected, `${method} ${path}: ${text}`);
  return answer.headers.get("content-type") === null ? answer : JSON.parse(text);
}

const top = await send("GET", `storage/?iTwinId=${itwin.id}`);
const root = top._links.folder.href.split("/").at(-1);
const { folder } = await send("POST", `storage/folders/${root}/folders`, { displayName: "Models", description: "all" }, 201);

async function upload(name, content) {
  const made = await send("POST", `storage/folders/${folder.id}/files`, { displayName: name, description: "by the SDK" }, 202);
  const id = made._links.completeUrl.href.split("/").at(-2);
  const blob = new BlockBlobClient(made._links.uploadUrl.href);
  const path = join(tmpdir(), `foreign-${process.pid}-${name}`);
  await writeFile(path, content);
  await blob.uploadFile(path, { blockSize: 256 * 1024, concurrency: 4, maxSingleShotSize: 512 * 1024 });
  const { file } = await send("POST", `storage/files/${id}/complete`);
  assert.equal(file.size, content.length);
  assert.deepEqual(await blob.downloadToBuffer(), content);
  return { id, blob };
}

const large = await upload("large.dgn", randomBytes(5_000_000));
assert.equal((await large.blob.getBlockList("all")).committedBlocks.length, 20);
const small = await upload("small.ifc", Buffer.from("small"));
const wrong = await upload("wrong.zip", Buffer.from("PK"));
await assert.rejects(large.blob.stageBlock("MDAwMQ==", "data", 4, { transactionalContentMD5: randomBytes(16) }), ({ statusCode }) => statusCode === 400);
await assert.rejects(send("GET", "storage/files/nobody"), /FileNotFound/);

const connections = "synchronization/imodels/storageconnections";
const { connection } = await send("POST", connections, {
  iModelId: imodel.id,
  displayName: "foreign",
  authenticationType: "Service",
  sourceFiles: [{ storageFileId: large.id, connectorType: "MSTN" }],
}, 201);
assert.equal(connection.iTwinId, itwin.id);
// In parallel, as Bentley's program does.
await Promise.all([[small, "IFC"], [wrong, "MSTN"]].map(([{ id }, connectorType]) =>
  send("POST", `${connections}/${connection.id}/sourcefiles`, { storageFileId: id, connectorType }, 201)));
const { sourceFiles } = await send("GET", `${connections}/${connection.id}/sourcefiles`, undefined, 200, { Prefer: "return=representation" });
assert.equal(sourceFiles.length, 3);
const started = await send("POST", `${connections}/${connection.id}/run`, undefined, 202);
const again = await send("POST", `${connections}/${connection.id}/run`, undefined, 303);
assert.equal(again.headers.get("location"), started.headers.get("location"));
const { runs } = await send("GET", `${connections}/${connection.id}/runs`);
assert.equal(runs.length, 1);
let run;
do {
  await new Promise((resolve) => setTimeout(resolve, 50));
  ({ run } = await send("GET", `${connections}/${connection.id}/runs/${runs[0].id}`));
} while (run.state !== "Completed");
const results = Object.fromEntries(run.jobs.flatMap(({ tasks }) => tasks).map(({ storageFileId, result }) => [storageFileId, result]));
assert.deepEqual(results, { [large.id]: "Success", [small.id]: "Success", [wrong.id]: "Error" });
assert.equal(run.result, "PartialSuccess");

// The run pushed a changeset, which gets a name.
const ofIModel = { authorization, iModelId: imodel.id };
const [changeset] = await toArray(imodels.changesets.getRepresentationList(ofIModel));
assert.deepEqual([changeset.index, changeset.synchronizationInfo.changedFiles.sort()], [1, ["large.dgn", "small.ifc"]]);
assert.equal((await imodels.changesets.getSingle({ ...ofIModel, changesetIndex: 1 })).id, changeset.id);
const version = { name: "Monday", description: "first", changesetId: changeset.id };
const named = await imodels.namedVersions.create({ ...ofIModel, namedVersionProperties: version });
assert.equal((await named.getChangeset()).id, changeset.id);
assert.ok((await named.getCreator()).email.startsWith(clientId));
await assert.rejects(
  imodels.namedVersions.create({ ...ofIModel, namedVersionProperties: version }),
  ({ code }) => code === "NamedVersionOnChangesetExists",
);
const hidden = { ...ofIModel, namedVersionId: named.id, namedVersionProperties: { state: "hidden" } };
assert.equal((await imodels.namedVersions.update(hidden)).state, "hidden");
assert.equal((await toArray(imodels.namedVersions.getMinimalList(ofIModel))).length, 1);

// Folders by pages, as a program that stops at a short page does it.
for (let number = 0; number < 120; number += 1) {
  await send("POST", `storage/folders/${folder.id}/folders`, { displayName: `F${number}` }, 201);
}
const { folders } = await send("GET", `storage/folders/${folder.id}/folders?$top=1000`);
assert.equal(folders.length, 120);
await send("GET", `storage/folders/${folder.id}/folders?$top=1001`, undefined, 422);
assert.equal((await send("GET", `storage/folders/${folder.id}/folders`)).folders.length, 100);

await send("DELETE", `${connections}/${connection.id}`, undefined, 204);
await send("DELETE", `storage/folders/${folder.id}`, undefined, 204);
await imodels.iModels.delete({ authorization, iModelId: imodel.id });
assert.equal((await itwins.deleteiTwin(token, itwin.id)).status, 204);
assert.equal((await itwins.getAsync(token, itwin.id)).status, 404);
console.log("all good");
