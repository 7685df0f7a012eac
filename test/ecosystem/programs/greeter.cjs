'use strict'

// A service of @connectrpc/connect, described here instead of in a generated file.

const { create, createFileRegistry } = require('@bufbuild/protobuf')
const { FileDescriptorProtoSchema, file_google_protobuf_wrappers: wrappers } = require('@bufbuild/protobuf/wkt')

const type = '.google.protobuf.StringValue'
const method = (name, serverStreaming = false) => ({ name, inputType: type, outputType: type, serverStreaming })
const file = create(FileDescriptorProtoSchema, {
  name: 'greeter.proto',
  package: 'greeter',
  syntax: 'proto3',
  dependency: [wrappers.proto.name],
  service: [{ name: 'Greeter', method: [method('Greet'), method('Hold'), method('Stream', true)] }]
})

exports.greeter = createFileRegistry(file, () => wrappers.proto).getService('greeter.Greeter')
