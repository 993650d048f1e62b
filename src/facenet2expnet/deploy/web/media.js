/** Pictures, videos and the webcam, as things that can be drawn. */

const VIDEO_ENDINGS = /\.(mp4|m4v|mov|mkv|webm|avi|ogv|mpe?g)$/i;
const SEEK_MS = 10_000;

export function isVideo(file) {
  return file.type.startsWith("video/") || (!file.type && VIDEO_ENDINGS.test(file.name));
}

/** Decode a picture file, turned as its EXIF orientation says. */
export async function openPicture(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is not a picture or video that this browser can read.`);
  }
}

/** Load a video file so that it can be sought in; its duration is known afterwards. */
export async function openVideo(file) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) });
  try {
    await event(video, "loadeddata");
    if (!Number.isFinite(video.duration)) await seek(video, 1e9); // a recording of a browser knows no duration before
    if (!video.videoWidth) throw new Error();
  } catch {
    URL.revokeObjectURL(video.src);
    throw new Error(`${file.name} is not a video that this browser can read.`);
  }
  return video;
}

export async function seek(video, time) {
  if (video.currentTime === time && !video.seeking) return;
  const sought = event(video, "seeked");
  video.currentTime = time;
  await sought;
}

/** Open the webcam; the promise is rejected with a reason that a person understands. */
export async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("Browsers allow the webcam only for pages from this machine or over HTTPS.");
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } }, audio: false });
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, srcObject: stream });
    await video.play();
    return video;
  } catch (error) {
    const reasons = { NotAllowedError: "permission was denied", NotFoundError: "none was found" };
    throw new Error(`The webcam can't be used: ${reasons[error.name] ?? error.message}.`);
  }
}

/** Let go of a video or a webcam. */
export function close(video) {
  video.pause();
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  if (video.src) URL.revokeObjectURL(video.src);
}

export function sizeOf(drawable) {
  return [drawable.videoWidth ?? drawable.width, drawable.videoHeight ?? drawable.height];
}

function event(video, name) {
  return new Promise((done, fail) => {
    const over = setTimeout(() => fail(new Error("The video stopped loading.")), SEEK_MS);
    const end = (then) => () => {
      clearTimeout(over);
      then(video.error);
    };
    video.addEventListener(name, end(done), { once: true });
    video.addEventListener("error", end(fail), { once: true });
  });
}
