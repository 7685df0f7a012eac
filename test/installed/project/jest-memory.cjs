// Jest loads all modules again for each test file. Run several times, it checks that the plugin holds nothing of the files before.

const http = require('node:http')
const { setFlagsFromString } = require('node:v8')
const { runInNewContext, runInThisContext } = require('node:vm')
const Fastify = require('fastify')
const gracefulPlugin = require('fastify-graceful')

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')
// Outside of Jest's contexts: an object of one would hold it.
const main = runInThisContext('globalThis')
const files = main.files ??= new main.Array()

test('nothing holds the global object of a test file that has closed its instance', async () => {
  const app = Fastify()
  await app.register(gracefulPlugin)
  await app.listen({ port: 0, host: '127.0.0.1' })
  await new Promise((resolve, reject) => {
    const { port } = app.server.address()
    http.get({ port, host: '127.0.0.1', path: '/ready', agent: false }, response => { response.resume().on('end', resolve) }).on('error', reject)
  })
  await app.close()
  // Node itself holds the first one that has loaded some of its modules, and Jest may hold the last one.
  const held = () => files.slice(1, -1).filter(file => file.deref() !== undefined).length
  for (const end = Date.now() + 3_000; Date.now() < end;) {
    collect()
    if (held() === 0) break
    // In the turn in which a reference is read, nothing collects its object.
    await new Promise(resolve => { setTimeout(resolve, 10) })
  }
  expect(held()).toBe(0)
  files.push(new main.WeakRef(globalThis))
  console.log(`test files in this process: ${files.length}`)
})
