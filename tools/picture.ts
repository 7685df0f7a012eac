// What the pictures of this project share: an SVG without scripts or fonts, legible at a width of 380 pixels, in the colour scheme of
// the reader.

/** The width in units. A picture that is 380 pixels wide shows a font size of 16 units as 10 pixels. */
export const WIDTH = 600
export const MARGIN = 16
/** From one line of text to the next. */
export const LINE = 22

const FONT_SIZE = 16
const TITLE_SIZE = 19

/** Light and dark. The first two groups have a contrast of at least 4.5:1 with the page and the tints. */
export const COLOURS = {
  ink: ['#1f2733', '#e6edf3'],
  faint: ['#515c6b', '#a3afbd'],

  green: ['#1a7a47', '#4fc98b'],
  blue: ['#2a66c0', '#79b0ff'],
  purple: ['#7448bd', '#c3a6ff'],
  orange: ['#9a5800', '#f0a94e'],
  red: ['#c2202c', '#ff8a80'],
  grey: ['#5d6876', '#9aa6b4'],

  page: ['#ffffff', '#0d1117'],
  frame: ['#d5dbe3', '#30363d'],
  'tint-green': ['#e9f6ee', '#12241a'],
  'tint-yellow': ['#fdf3d8', '#2a220e'],
  'tint-blue': ['#e8f0fc', '#101f36'],
  'tint-purple': ['#f2eafb', '#231934']
} as const satisfies Record<string, readonly [light: string, dark: string]>
export type Colour = keyof typeof COLOURS

export interface Picture {
  /** Unique among the pictures, because a page may contain several of them. */
  id: string
  title: string
  /** Lines under the title. */
  subtitle: readonly string[]
  /** The picture in words, for screen readers. */
  description: string
  height: number
}

/** Where the content starts, below a subtitle of this many lines. */
export function top (subtitleLines: number): number {
  return 44 + subtitleLines * LINE
}

export function drawPicture ({ id, title, subtitle, description, height }: Picture, drawing: readonly string[]): string {
  const drawn = [
    `<rect x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="8" class="page frame-line"/>`,
    text(MARGIN, 34, title, { bold: true, size: TITLE_SIZE }),
    ...subtitle.map((content, index) => text(MARGIN, 34 + (index + 1) * LINE, content, { colour: 'faint' })),
    ...drawing
  ].join('\n')
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-labelledby="${id}-title ${id}-description"
  font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="${FONT_SIZE}">
<title id="${id}-title">${escape(title)}</title>
<desc id="${id}-description">${escape(description)}</desc>
<style>
${styles(drawn, 0)}
@media (prefers-color-scheme: dark) {
${styles(drawn, 1)}
}
</style>
${drawn}
</svg>
`
}

/** The classes that the drawing uses. */
function styles (drawn: string, scheme: 0 | 1): string {
  const used = new Set([...drawn.matchAll(/ class="([^"]+)"/g)].flatMap(([, names = '']) => names.split(' ')))
  return [...used].sort().map(name => {
    const isLine = name.endsWith('-line')
    const value = COLOURS[name.replace(/-line$/, '') as Colour][scheme]
    return isLine ? `.${name} { stroke: ${value} }` : `.${name} { fill: ${value} }`
  }).join('\n')
}

export interface TextStyle {
  colour?: Colour
  anchor?: 'start' | 'middle' | 'end'
  bold?: boolean
  size?: number
}

export function text (x: number, y: number, content: string, { colour = 'ink', anchor = 'start', bold = false, size }: TextStyle = {}): string {
  const attributes = [
    `x="${round(x)}" y="${round(y)}" class="${colour}"`,
    ...anchor === 'start' ? [] : [`text-anchor="${anchor}"`],
    ...bold ? ['font-weight="600"'] : [],
    ...size === undefined ? [] : [`font-size="${size}"`]
  ]
  return `<text ${attributes.join(' ')}>${escape(content)}</text>`
}

export function box (x: number, y: number, width: number, height: number, colour: Colour, radius = 0): string {
  const corners = radius === 0 ? '' : ` rx="${radius}"`
  return `<rect x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"${corners} class="${colour}"/>`
}

/** `path` in the syntax of SVG; `dashes` as in stroke-dasharray. */
export function line (path: string, colour: Colour, { width = 1, dashes = '' } = {}): string {
  return `<path d="${path}" fill="none" class="${colour}-line" stroke-width="${width}"${dashes === '' ? '' : ` stroke-dasharray="${dashes}"`}/>`
}

/** Round steps from 0 up to at most `most`. */
export function ticks (most: number, about = 4): number[] {
  const rough = most / about
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 5].find(factor => factor * power >= rough) ?? 10)
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step)
}

export function round (value: number): number {
  return Math.round(value * 10) / 10
}

function escape (content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
