// Parses a picture into its elements. Supports the part of XML that the pictures use; anything else is an error.

export interface Element {
  name: string
  attributes: Record<string, string>
  /** Its own text, unescaped. */
  content: string
}

const TAG = /<(?<close>\/?)(?<name>[a-zA-Z]+)(?<attributes>(?:\s+[\w:-]+="[^"<&]*")*)\s*(?<empty>\/?)>/
const TEXT = /(?<text>(?:[^<&]|&(?:amp|lt|gt|quot);)+)/
const TOKEN = new RegExp(`${TAG.source}|${TEXT.source}`, 'y')

/** In the order of the document. */
export function parse (xml: string): Element[] {
  const elements: Element[] = []
  const open: Element[] = []
  TOKEN.lastIndex = 0
  while (TOKEN.lastIndex < xml.length) {
    const at = TOKEN.lastIndex
    const { close, name = '', attributes = '', empty, text } = TOKEN.exec(xml)?.groups ?? {}
    if (TOKEN.lastIndex === 0) throw new Error(`Not XML, from character ${at}: ${xml.slice(at, at + 60)}`)
    const parent = open.at(-1)
    if (text !== undefined) {
      if (parent !== undefined) parent.content += text
      else if (text.trim() !== '') throw new Error(`Text outside of the root: ${text}`)
    } else if (close === '/') {
      if (open.pop()?.name !== name) throw new Error(`</${name}> closes nothing, at character ${at}`)
    } else {
      if (parent === undefined && elements.length > 0) throw new Error('A second root')
      const element: Element = { name, attributes: toObject(attributes), content: '' }
      elements.push(element)
      if (empty !== '/') open.push(element)
    }
  }
  if (open.length > 0 || elements.length === 0) throw new Error('The root does not end')
  return elements
}

function toObject (attributes: string): Record<string, string> {
  const pairs = [...attributes.matchAll(/([\w:-]+)="([^"]*)"/g)].map(([, name = '', value = '']) => [name, value] as const)
  const object = Object.fromEntries(pairs)
  if (Object.keys(object).length < pairs.length) throw new Error(`An attribute is there twice: ${attributes}`)
  return object
}

/** The corners of a rectangle, the points of a path, the start of a text. */
export function pointsOf ({ name, attributes }: Element): Array<readonly [x: number, y: number]> {
  const number = (attribute: string) => Number(attributes[attribute])
  switch (name) {
  case 'rect': return [[number('x'), number('y')], [number('x') + number('width'), number('y') + number('height')]]
  case 'text': return [[number('x'), number('y')]]
  case 'path': return follow(attributes['d'] ?? '')
  default: return []
  }
}

/** The commands that the pictures use: M, L, H and V, absolute or relative. */
function follow (path: string): Array<readonly [x: number, y: number]> {
  let [x, y] = [0, 0]
  return [...path.matchAll(/([a-z])([^a-z]*)/gi)].map(([, command = '', rest = '']) => {
    const [first = NaN, second = NaN] = rest.trim().split(/[\s,]+/).map(Number)
    switch (command) {
    case 'M': case 'L': [x, y] = [first, second]; break
    case 'H': x = first; break
    case 'h': x += first; break
    case 'V': y = first; break
    case 'v': y += first; break
    default: throw new Error(`An unknown command in a path: ${command}`)
    }
    return [x, y] as const
  })
}
