// The test suites of other projects. packages/package.json pins their versions and the packages that their tests need.

export interface Suite {
  /** The package; its tests are in its tarball. */
  name: string
  /** Which of its files are tests, as a path in the package. Default: `*.test.js`. */
  tests?: RegExp
  /** Files that are skipped, each with the reason. */
  skip?: Record<string, string>
  /** What the short form runs: the whole suite or some of its files. Default: nothing. */
  short?: true | RegExp
}

/** What is left out of the packages of @fastify that make instances, by the reason. */
export const LEFT_OUT: Readonly<Record<string, readonly string[]>> = {
  'no tests in its tarball': [
    'awilix', 'aws-lambda', 'flash', 'funky', 'passport', 'request-context', 'schedule', 'session', 'type-provider-json-schema-to-ts',
    'type-provider-typebox', 'vue'
  ],
  'its tests need tap': ['early-hints', 'nextjs', 'restartable', 'routes-stats', 'throttle'],
  'its tests need a database or a message broker': ['elasticsearch', 'kafka', 'mongodb', 'mysql', 'opensearch', 'postgres', 'redis'],
  'its tests in the tarball make no instance': ['react', 'vite'],
  'no longer on npm': ['hotwire']
}

/** In this folder. Runs ahead of the others, and shows that differences are found: its known ones must be. */
export const SELF_TEST: Suite = { name: 'self-test', tests: /^detected\.cjs$/ }

export const SUITES: readonly Suite[] = [
  {
    name: 'fastify',
    skip: {
      'test/build/error-serializer.test.js': 'lints generated code; makes no instance',
      'test/build/version.test.js': 'compares versions; makes no instance',
      'test/scripts/validate-ecosystem-links.test.js': 'checks links in documents; makes no instance'
    },
    short: /^test\/(async-dispose|close|connection-timeout|handler-timeout|hooks|http2|inject|keep-alive|reply-trailers|stream|web-api)/
  },
  {
    name: '@fastify/reply-from',
    skip: {
      'test/http2-canceled-streams-cleanup.test.js': 'without the plugin, it does not end either if close() comes 10 ms later',
      'test/unix-http.test.js': 'listens on a Unix socket beside the test, whose path is too long in a cache folder',
      'test/unix-https.test.js': 'the same',
      'test/connect-timeout.test.js': 'needs a network that swallows a connection'
    },
    short: /^test\/(?!.*(timeout|retr(y|ies)))/
  },
  { name: '@fastify/http-proxy', tests: /^test\/[^/]+\.js$/, short: true },
  { name: '@fastify/multipart' },
  { name: '@fastify/websocket' },
  { name: '@fastify/sse' },
  { name: '@fastify/static' },
  { name: '@fastify/compress' },
  { name: '@fastify/under-pressure' },
  { name: '@fastify/rate-limit', skip: { 'test/redis-rate-limit.test.js': 'needs Redis' } },
  { name: '@fastify/circuit-breaker' },
  { name: '@fastify/middie' },
  { name: '@fastify/express' },
  { name: '@fastify/cors' },
  { name: '@fastify/helmet' },
  { name: '@fastify/cookie' },
  { name: '@fastify/formbody' },
  { name: '@fastify/etag' },
  { name: '@fastify/caching' },
  { name: '@fastify/accepts' },
  {
    name: '@fastify/auth',
    skip: {
      'test/example.test.js': 'needs LevelDB',
      'test/example-async.test.js': 'needs LevelDB',
      'test/example-composited.test.js': 'needs LevelDB'
    }
  },
  { name: '@fastify/jwt' },
  { name: '@fastify/sensible' },
  { name: '@fastify/swagger' },
  { name: '@fastify/routes' },
  { name: '@fastify/url-data' },
  { name: '@fastify/accepts-serializer', tests: /^test\/test\.js$/ },
  { name: '@fastify/ajv-compiler' },
  {
    name: '@fastify/autoload',
    tests: /^test\/(?:(?:commonjs|module)\/[^/]+|issues\/\d+\/test)\.js$/,
    skip: {
      'test/commonjs/basic.js': 'needs an empty folder, which the tarball lacks',
      'test/module/basic.js': 'the same'
    }
  },
  { name: '@fastify/basic-auth' },
  { name: '@fastify/bearer-auth' },
  { name: '@fastify/csrf-protection' },
  { name: '@fastify/env' },
  { name: '@fastify/fast-json-stringify-compiler' },
  { name: '@fastify/oauth2' },
  { name: '@fastify/one-line-logger' },
  { name: '@fastify/otel' },
  { name: '@fastify/response-validation' },
  { name: '@fastify/secure-session' },
  { name: '@fastify/swagger-ui' },
  { name: '@fastify/view' },
  { name: '@fastify/zipkin' }
]
