// `npm run test:pictures`: checks each picture in Chromium, light and dark, wide and narrow. `-- --help` shows the options.
//
// Exits with 1 if a text is too small, faint, cut off or covered, or if a picture differs from its last approved version.

import type { Page } from 'playwright-core'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { launchBrowser } from '../browser.ts'
import { contrast, MIN_CONTRAST, rgb } from './contrast.ts'
import { pictures } from './files.ts'
import { otherTimelines } from './timelines.ts'

const HELP = `npm run test:pictures -- [--approve] [--screenshots FOLDER]

  --approve             stores what the pictures look like now, in test/pictures/approved
  --screenshots FOLDER  writes a screenshot of each picture, to look at

Needs Chromium in the PATH (apt-get install chromium fonts-dejavu-core).
`

const SCHEMES = ['light', 'dark'] as const
type Scheme = typeof SCHEMES[number]
const WIDTHS = [1200, 380]
/** Pixels of the screen. */
const SMALLEST_TEXT = 9
/** The widest of the common fonts. The same font on all machines makes the screenshots comparable. */
const FONT = 'DejaVu Sans'
/** The share of the pixels of a picture that may differ from the approved one. */
const TOLERANCE = 0.01
/** The width of the pictures on the compared sheet, and its number of columns. */
const THUMBNAIL = { width: 120, columns: 4 }

const approved = (scheme: Scheme) => new URL(`approved/${scheme}.png`, import.meta.url)

interface Box { x: number, y: number, width: number, height: number }
interface Seen {
  frame: Box
  texts: Array<{ box: Box, content: string, size: number, colour: string }>
  marks: Box[]
}

const { values: asked } = parseArgs({
  options: { approve: { type: 'boolean', default: false }, screenshots: { type: 'string' }, help: { type: 'boolean', default: false } }
})
if (asked.help) {
  console.log(HELP)
  process.exit(0)
}

const withFont = ({ path, svg }: { path: string, svg: string }) => ({ path, svg: svg.replace(/font-family="[^"]*"/, `font-family="${FONT}"`) })
const all = pictures().map(withFont)
const others = otherTimelines().map(withFont)
const faults: string[] = []
const browser = await launchBrowser()
try {
  for (const scheme of SCHEMES) {
    for (const width of WIDTHS) {
      const page = await open(scheme, width)
      for (const { path, svg } of [...all, ...others]) await look(page, path, svg, { scheme, width })
      await page.close()
    }
    await compare(scheme)
  }
} finally {
  await browser.close()
}
for (const fault of faults) console.error(fault)
console.log(`${all.length + others.length} pictures, ${faults.length} faults`)
process.exitCode = faults.length === 0 ? 0 : 1

async function open (scheme: Scheme, width: number): Promise<Page> {
  return await browser.newPage({ colorScheme: scheme, viewport: { width, height: 800 } })
}

async function show (page: Page, html: string): Promise<void> {
  await page.setContent(`<!doctype html><style>body { margin: 0 } svg, img { display: block; height: auto }</style>${html}`)
  await page.addScriptTag({ path: fileURLToPath(new URL('in-page.js', import.meta.url)) })
}

/** Checks a picture and records its faults. */
async function look (page: Page, path: string, svg: string, { scheme, width }: { scheme: Scheme, width: number }): Promise<void> {
  await show(page, svg.replace('<svg ', '<svg style="width: 100vw" '))
  const fault = (message: string) => { faults.push(`${path}, ${scheme}, ${width} px: ${message}`) }
  const { frame, texts, marks } = await page.evaluate('inspect()') as Seen
  if (asked.screenshots !== undefined) {
    mkdirSync(asked.screenshots, { recursive: true })
    await page.screenshot({ fullPage: true, path: join(asked.screenshots, `${path.replaceAll('/', '-').replace('.svg', '')}-${scheme}-${width}.png`) })
  }
  if (!await page.evaluate(`document.fonts.check('16px "${FONT}"')`)) fault(`${FONT} is not installed`)

  for (const mark of marks) if (!isInside(mark, frame, 0)) fault(`a mark at ${mark.x}, ${mark.y} is cut off`)
  for (const [index, { content, box, size }] of texts.entries()) {
    if (size < SMALLEST_TEXT) fault(`"${content}" is ${size.toFixed(1)} px high`)
    if (!isInside(box, frame, 4)) fault(`"${content}" is cut off, or touches the edge`)
    for (const other of texts.slice(index + 1)) if (overlap(box, other.box)) fault(`"${content}" overlaps "${other.content}"`)
  }

  await page.addStyleTag({ content: 'text { visibility: hidden }' })
  const background = dataUrl(await page.screenshot({ fullPage: true }), 'image/png')
  const boxes = JSON.stringify(texts.map(({ box }) => withoutLeading(box)))
  const colours = await page.evaluate(`coloursIn(${JSON.stringify(background)}, ${boxes})`) as string[][]
  for (const [index, { content, colour }] of texts.entries()) {
    const least = Math.min(...(colours[index] ?? []).map(behind => contrast(rgb(colour), rgb(behind))))
    if (!(least >= MIN_CONTRAST)) fault(`"${content}" has a contrast of ${least.toFixed(1)}:1 with what is behind it`)
  }
}

/** Compares all pictures on one sheet, embedded as in a Markdown page. */
async function compare (scheme: Scheme): Promise<void> {
  const images = all.map(({ svg }) => `<img width="${THUMBNAIL.width}" src="${dataUrl(Buffer.from(svg), 'image/svg+xml')}">`)
  const sheet = `<div style="columns: ${THUMBNAIL.columns}; column-gap: 0">${images.join('')}</div>`
  const page = await open(scheme, THUMBNAIL.width * THUMBNAIL.columns)
  await show(page, sheet)
  await page.evaluate('Promise.all([...document.images].map(image => image.decode()))')
  const now = await page.screenshot({ fullPage: true })
  if (asked.approve) {
    mkdirSync(new URL('.', approved(scheme)), { recursive: true })
    writeFileSync(approved(scheme), now)
  }
  const boxes = await page.evaluate(`[...document.images].map(image => {
    const { x, y, width, height } = image.getBoundingClientRect()
    return { x: Math.round(x), y: Math.round(y), width: Math.round(width), height: Math.round(height) }
  })`)
  const before = dataUrl(readFileSync(approved(scheme)), 'image/png')
  const shares = await page.evaluate(
    `differencesIn(${JSON.stringify(dataUrl(now, 'image/png'))}, ${JSON.stringify(before)}, ${JSON.stringify(boxes)})`) as number[]
  for (const [index, share] of shares.entries()) {
    if (share > TOLERANCE) {
      faults.push(`${all[index]?.path}, ${scheme}: ${(100 * share).toFixed(1)} % of it looks different from what was approved (see --help)`)
    }
  }
  await page.close()
}

function isInside (inner: Box, outer: Box, margin: number): boolean {
  return inner.x >= outer.x + margin && inner.y >= outer.y + margin &&
    inner.x + inner.width <= outer.x + outer.width - margin && inner.y + inner.height <= outer.y + outer.height - margin
}

function overlap (one: Box, other: Box): boolean {
  const SLACK = 1
  return one.x + one.width > other.x + SLACK && other.x + other.width > one.x + SLACK &&
    one.y + one.height > other.y + SLACK && other.y + other.height > one.y + SLACK
}

/** The part of a line that contains its letters. */
function withoutLeading ({ x, y, width, height }: Box): Box {
  return { x, y: y + height * 0.2, width, height: height * 0.65 }
}

function dataUrl (data: Buffer, type: string): string {
  return `data:${type};base64,${data.toString('base64')}`
}
