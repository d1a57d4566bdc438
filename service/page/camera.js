/** The camera of this device. */

import { Problem } from "./api.js";

const REASONS = {
  NotAllowedError: "The browser refused the camera. Allow it in the address bar, then start it again.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "The camera is in use by another program.",
  OverconstrainedError: "That camera is gone. Choose another.",
};

/** The stream of the camera with that id, or of any camera. Throws Problem. */
export async function openCamera(id) {
  if (!navigator.mediaDevices) {
    throw new Problem("no_camera", "Browsers allow the camera only on https pages and on localhost.");
  }
  const device = id ? { deviceId: { exact: id } } : {};
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, ...device } });
  } catch (error) {
    throw new Problem("no_camera", REASONS[error.name] ?? `The camera did not start: ${error.message}`);
  }
}

/** Names and ids of all cameras, after one of them was allowed. */
export async function listCameras() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === "videoinput");
}
