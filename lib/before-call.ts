// Wraps or replaces a method of an object that belongs to other code.

type Methods<K extends string> = Record<K, (...args: never[]) => unknown>

/** From now on, calls back before each call of the method. */
export function beforeCall<K extends string> (object: Methods<K>, name: K, callback: (...args: unknown[]) => void): void {
  const { [name]: method } = object
  object[name] = (...args) => {
    callback(...args)
    return method.apply(object, args)
  }
}

/** Replaces a method. Returns a function that restores it; that does nothing if other code has replaced it since. */
export function replaceMethod (object: object, name: string, method: unknown): () => void {
  const own = Object.getOwnPropertyDescriptor(object, name)
  Object.defineProperty(object, name, { value: method, configurable: true, writable: true })
  return () => {
    // Not what it reads as: a proxy may show another one.
    if (Object.getOwnPropertyDescriptor(object, name)?.value !== method) return
    if (own === undefined) delete (object as Record<string, unknown>)[name]
    else Object.defineProperty(object, name, own)
  }
}
