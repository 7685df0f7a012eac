// The contrast of two colours, as the Web Content Accessibility Guidelines define it.

type Rgb = readonly [red: number, green: number, blue: number]

/** The requirement of WCAG for text of a normal size (level AA). */
export const MIN_CONTRAST = 4.5

/** From 1 (the same) to 21 (black and white). https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio */
export function contrast (one: Rgb, other: Rgb): number {
  const [lighter = 0, darker = 0] = [luminance(one), luminance(other)].sort((a, b) => b - a)
  return (lighter + 0.05) / (darker + 0.05)
}

/** `#rrggbb`, or `rgb(r, g, b)` as browsers compute it. */
export function rgb (colour: string): Rgb {
  const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(colour)
  const parts = hex === null ? colour.match(/\d+/g)?.map(Number) : hex.slice(1).map(part => parseInt(part, 16))
  if (parts?.length !== 3) throw new Error(`Not an opaque colour: ${colour}`)
  return parts as unknown as Rgb
}

function luminance (colour: Rgb): number {
  const [red = 0, green = 0, blue = 0] = colour.map(value => linear(value / 255))
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue
}

function linear (value: number): number {
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
}
